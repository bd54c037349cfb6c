"""What leaves nrfx: a network in files and graphs that run without it.

plain      a graph module of torch's own layers and operations
apply      the rewritten layers, back in an instance of the user's class
formats    a network written as ONNX and as a program of torch.export, and how each is run again
export     both formats, checked against the network before a file is there
latency    how long a forward takes
"""
