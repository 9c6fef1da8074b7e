"""Camera images: decoding, and checks for frozen, unusable and dropped frames."""
