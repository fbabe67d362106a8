// A pair of query and key as hooks and tables see it.
struct At {
    batch: u32,
    head: u32,
    row: u32,    // query index
    query: i32,  // aligned query position: row + Lk - Lq when aligned at the bottom right
    key: i32,
}
