"""From an address or bytes to views: fetching and decoding."""
