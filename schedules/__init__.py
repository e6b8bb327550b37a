"""TIR kernels, the cores they run on and the layouts they read: no Relax, no ONNX."""
