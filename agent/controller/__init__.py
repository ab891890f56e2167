"""TrainedModel objects become ConfigMaps and truthful status."""
