"""HTTP for every vendor: connections, health, uploads, file requests, errors, the OpenAPI document, the page."""
