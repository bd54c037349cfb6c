"""The study on Fashion-MNIST: what rejuvenation wins against plain training, row by row, with intervals.

networks    four families of networks, small enough for a processor
plan        what a run is: family, budget, row, seed, settings; and its line in the file
loop        steps of training, with the score of the weights on the way
searches    NR's rows: a search, an event, the steps behind it
others      the rows that are not NR's: plain training, controls, Network Slimming, MorphNet
rates       the learning rate: of plain training and of NR each its own
runs        carries runs out, in several processes, and keeps each as it ends
run         the command
"""
