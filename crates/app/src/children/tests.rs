mod decided;
mod supervised;
