"""What Ascend's own tools and files say, as values: text in, frozen model or ToolOutputError out. Pure."""
