"""Music artist identification: from the audio of a song, say which artist it is."""
