"""Fetching and decoding: from an address or bytes to the views that models take."""
