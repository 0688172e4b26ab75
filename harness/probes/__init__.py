"""What is measured beside the loss: time, memory, FLOPs. A probe never touches a timed step."""
