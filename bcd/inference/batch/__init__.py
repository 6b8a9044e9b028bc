"""Prediction of any number of images: lists and archives as inputs, tables in parts, shards."""
