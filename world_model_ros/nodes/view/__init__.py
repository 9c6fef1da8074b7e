"""The page in the browser: camera, imagination, goal, state, plots and buttons."""
