"""Writes a trained model as a folder that scores without its workdir."""
