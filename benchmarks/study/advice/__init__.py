"""What `nrfx advise` says, against what full runs then did."""
