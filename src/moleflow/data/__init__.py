"""Image data sets: folder layouts, transforms, the image data set, tasks and Lightning data modules."""
