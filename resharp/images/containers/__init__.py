"""What each container says about its picture, without decoding it: one module per format."""
