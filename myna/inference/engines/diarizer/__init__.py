"""Speaker segmentation and embedding on onnxruntime."""
