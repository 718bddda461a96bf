"""What a data set gives away without a look at its pixels, and how to even it out."""
