"""What a run will cost before it starts: parameters, memory, time, bytes on disk; and what fits where it does not."""
