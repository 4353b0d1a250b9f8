"""What every process of the server needs: supervised tasks, deadlines, threads, descriptors."""
