//! A small S3 on loopback, whose answers a test can replace.

#![allow(clippy::format_push_string, reason = "a test need not be fast")]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A request as it came in.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// All of it but the body, as a server would quote it.
    pub(crate) text: String,
}

impl Request {
    pub(crate) fn is_conditional(&self) -> bool {
        self.headers.contains_key("if-match") || self.headers.contains_key("if-none-match")
    }
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    /// How much of the body is really sent.
    pub(crate) sent: Option<usize>,
}

impl Answer {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            ..Self::default()
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// The objects, by path, with a number for a tag.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    held: HashMap<String, (u64, Vec<u8>)>,
    tags: u64,
}

impl Objects {
    /// What S3 answers.
    pub(crate) fn answer(&mut self, request: &Request) -> Answer {
        match request.method.as_str() {
            "PUT" => self.put(request),
            "GET" => self.get(request),
            "DELETE" => {
                self.held.remove(&request.path);
                Answer::status(204)
            }
            _ => Answer::status(405),
        }
    }

    fn put(&mut self, request: &Request) -> Answer {
        let present = self
            .held
            .get(&request.path)
            .map(|(tag, _)| format!("\"{tag}\""));
        let exists = request.headers.contains_key("if-none-match") && present.is_some();
        let wanted = request.headers.get("if-match");
        if exists || wanted.is_some_and(|tag| Some(tag) != present.as_ref()) {
            return Answer::status(412);
        }
        self.tags += 1;
        let object = (self.tags, request.body.clone());
        self.held.insert(request.path.clone(), object);
        Answer::status(200).with("etag", format!("\"{}\"", self.tags))
    }

    fn get(&self, request: &Request) -> Answer {
        let Some((tag, body)) = self.held.get(&request.path) else {
            return Answer::status(404);
        };
        let answer = Answer {
            body: body.clone(),
            ..Answer::status(200)
        }
        .with("etag", format!("\"{tag}\""))
        .with("last-modified", "Thu, 01 Jan 2026 00:00:00 GMT");
        let Some(range) = request.headers.get("range") else {
            return answer;
        };
        let (start, end) = range
            .strip_prefix("bytes=")
            .unwrap()
            .split_once('-')
            .unwrap();
        let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
        let end = (end + 1).min(body.len());
        let shown = format!("bytes {start}-{}/{}", end - 1, body.len());
        Answer {
            status: 206,
            body: body[start..end].to_vec(),
            ..answer
        }
        .with("content-range", shown)
    }
}

/// Answers requests with what `answer` says, and keeps them.
pub(crate) struct Server {
    pub(crate) endpoint: String,
    pub(crate) requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// `answer` is given each request and the objects, and answers for them or otherwise.
    pub(crate) fn start(
        answer: impl Fn(&Request, &mut Objects) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (kept, objects) = (Arc::clone(&requests), Mutex::new(Objects::default()));
        let serve = move |stream: TcpStream| {
            let Some(request) = read(&stream) else { return };
            kept.lock().unwrap().push(request.clone());
            let answer = answer(&request, &mut objects.lock().unwrap());
            write(stream, &request, &answer);
        };
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serve = Arc::clone(&serve);
                std::thread::spawn(move || serve(stream));
            }
        });
        Self { endpoint, requests }
    }

    pub(crate) fn count(&self, is: impl Fn(&Request) -> bool) -> usize {
        self.requests
            .lock()
            .unwrap()
            .iter()
            .filter(|r| is(r))
            .count()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut text = String::new();
    while !text.ends_with("\r\n\r\n") {
        if reader.read_line(&mut text).ok()? == 0 {
            return None;
        }
    }
    let mut lines = text.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?);
    let headers: HashMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length = headers
        .get("content-length")
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let path = target.split('?').next()?.to_owned();
    Some(Request {
        method,
        path,
        headers,
        body,
        text,
    })
}

fn write(mut stream: TcpStream, request: &Request, answer: &Answer) {
    let mut head = format!("HTTP/1.1 {} x\r\nconnection: close\r\n", answer.status);
    head += &format!("content-length: {}\r\n", answer.body.len());
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let mut bytes = head.into_bytes();
    if request.method != "HEAD" {
        bytes.extend_from_slice(&answer.body[..answer.sent.unwrap_or(answer.body.len())]);
    }
    // A client that has gone away is no concern of the server.
    let _ = stream.write_all(&bytes);
}
