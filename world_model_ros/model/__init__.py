"""LeWorldModel: encoder, predictor, SIGReg, checkpoint (arXiv 2603.19312)."""
