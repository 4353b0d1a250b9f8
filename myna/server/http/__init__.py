"""HTTP for every vendor: health, uploads, file requests, errors, the OpenAPI document, the page, the connections below."""
