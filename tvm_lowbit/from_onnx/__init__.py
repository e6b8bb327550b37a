"""ONNX, QONNX and FINN models to Relax: `read` files, import the `graph`, `custom` operators beside ONNX's own."""
