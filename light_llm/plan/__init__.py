"""The plan of a run before it starts: parameters, memory, time, disk space, and suggestions if it does not fit."""
