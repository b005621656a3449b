"""ProSG: a prompt becomes a low-rank update of a recurrent language model's weights."""
