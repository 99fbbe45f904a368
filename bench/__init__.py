"""Speed and memory beside the peers, measured side by side in one run. Not part of the package."""
