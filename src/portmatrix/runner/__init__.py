"""The worker that needs no interpreter: a C program of the files in this folder and of one runtime's own."""
