//! A running node: writer, uploader, snapshotter, watch hub, lifecycle.
