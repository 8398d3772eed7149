"""From a student checkpoint to gated ONNX graphs and one bundle for the clinic."""
