//! A server for the test page on 127.0.0.1: files one way, outcomes of tests the other way.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use anyhow::Result;

/// Longest body that the page may post, in bytes.
const BODY_LIMIT: u64 = 1 << 20;

/// The folders that the page sees.
pub struct Site {
    /// Served at `/`.
    pub page: PathBuf,
    /// Served at `/pkg/`.
    pub module: PathBuf,
    /// Served at `/cases/`; `/cases` lists the case files in it, one relative path a line.
    pub cases: PathBuf,
}

/// What the page posts.
pub enum Message {
    /// A test begins.
    Started(String),
    /// A test passed; a remark, often empty.
    Passed(String, String),
    /// A test failed; why.
    Failed(String, String),
    /// All tests were run; their number.
    Done(usize),
    /// The page cannot go on.
    Aborted(String),
}

/// Serves in the background as long as the process lives.
pub fn start(site: Site) -> Result<(SocketAddr, Receiver<Message>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (sender, receiver) = mpsc::channel();
    let site = Arc::new(site);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (site, sender) = (Arc::clone(&site), sender.clone());
            // Browsers open connections in advance; a thread each, so that an idle one holds up nobody.
            thread::spawn(move || answer(stream, &site, &sender));
        }
    });
    Ok((address, receiver))
}

fn answer(stream: TcpStream, site: &Site, sender: &Sender<Message>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut reader = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    reader.read_line(&mut line)?;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim_end();
        if header.is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = Vec::new();
    reader.by_ref().take(length.min(BODY_LIMIT)).read_to_end(&mut body)?;

    let mut words = line.split_whitespace();
    let (method, address) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = address.split('?').next().unwrap_or_default();
    let content = match method {
        "GET" => read(site, path),
        "POST" => message(path, &String::from_utf8_lossy(&body)).map(|message| {
            let _ = sender.send(message);
            Vec::new()
        }),
        _ => None,
    };
    let status = if content.is_some() { "200 OK" } else { "404 Not Found" };
    let content = content.unwrap_or_default();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {}\r\nContent-Length: {}\r\nCache-Control: no-store\r\nConnection: close\r\n\r\n",
        content_type(path),
        content.len(),
    );
    let mut stream = reader.into_inner();
    stream.write_all(head.as_bytes())?;
    stream.write_all(&content)
}

fn message(path: &str, body: &str) -> Option<Message> {
    let (name, text) = body.split_once('\n').unwrap_or((body, ""));
    let (name, text) = (name.to_owned(), text.to_owned());
    match path {
        "/started" => Some(Message::Started(name)),
        "/passed" => Some(Message::Passed(name, text)),
        "/failed" => Some(Message::Failed(name, text)),
        "/done" => body.parse().ok().map(Message::Done),
        "/aborted" => Some(Message::Aborted(body.to_owned())),
        _ => None,
    }
}

fn read(site: &Site, path: &str) -> Option<Vec<u8>> {
    if path.split('/').any(|part| part == "..") {
        return None;
    }
    if path == "/cases" {
        let mut found = Vec::new();
        list(&site.cases, "", &mut found);
        found.sort();
        return Some(found.join("\n").into_bytes());
    }
    let file = if let Some(rest) = path.strip_prefix("/pkg/") {
        site.module.join(rest)
    } else if let Some(rest) = path.strip_prefix("/cases/") {
        site.cases.join(rest)
    } else if path == "/" {
        site.page.join("index.html")
    } else {
        site.page.join(path.strip_prefix('/')?)
    };
    fs::read(file).ok()
}

/// Appends the paths of the case files below `folder`, relative to the first call's folder.
fn list(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if path.is_dir() {
            list(&path, &format!("{name}/"), found);
        } else if name.ends_with(".safetensors") {
            found.push(name);
        }
    }
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit_once('.').map(|(_, extension)| extension) {
        Some("js") => "text/javascript",
        // Without this type the browser refuses to compile while it downloads.
        Some("wasm") => "application/wasm",
        Some("safetensors") => "application/octet-stream",
        _ if path == "/" => "text/html",
        _ => "text/plain",
    }
}
