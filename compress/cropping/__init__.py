"""Dynamic image cropping: activation maps, boxes, the foreground predictor, crop sizes."""
