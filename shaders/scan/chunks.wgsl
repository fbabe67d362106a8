// To be written: records of chunks without a decay or with a scalar one.
fn kernel(group: u32, lane: u32) {
}
