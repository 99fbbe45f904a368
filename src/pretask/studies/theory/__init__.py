"""Theory made executable: nothing is trained on data, everything is counted or computed."""
