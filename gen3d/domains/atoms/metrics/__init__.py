"""Quality of molecules and crystals."""
