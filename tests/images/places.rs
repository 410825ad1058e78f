//! Names of images in archives and layouts, and what else is there.
