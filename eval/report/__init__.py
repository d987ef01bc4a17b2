"""The page that shows an evaluation to a person: one HTML file that asks the network for nothing."""
