"""Uses of trained models: ensembles, ONNX export, merging of experts, overlays."""
