"""Looks into data sets: metadata that give classes away, duplicates, and re-encoding against them."""
