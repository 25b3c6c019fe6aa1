//! An HTTP/1.1 client that does only what it is told, so that it can also be told to misbehave.

use crate::PATIENCE;
use serde_json::Value;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

/// One connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    host: String,
}

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Header names in lower case, and their values.
    pub headers: Vec<(String, String)>,
    /// The body, out of its chunks.
    pub body: Vec<u8>,
}

impl Connection {
    /// Connect.
    ///
    /// # Errors
    /// When nobody listens.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), host: address.to_string() })
    }

    /// Send bytes as they are.
    ///
    /// # Errors
    /// When the server has closed the connection.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Send a request and read the answer; the connection stays open for the next.
    ///
    /// # Errors
    /// When the server closes the connection before it has answered.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&[u8]>,
    ) -> io::Result<Response> {
        let mut bytes = self.head(method, path, headers, body.map(<[u8]>::len));
        bytes.extend_from_slice(body.unwrap_or_default());
        // A server may answer and close before it has read a body that it refuses.
        let sent = self.send(&bytes);
        self.answer().map_err(|why| sent.err().unwrap_or(why))
    }

    /// The head of a request.
    #[must_use]
    pub fn head(&self, method: &str, path: &str, headers: &[(&str, &str)], length: Option<usize>) -> Vec<u8> {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head.extend(["host: ", &self.host, "\r\n"]);
        }
        for (name, value) in headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        if let Some(length) = length {
            head.extend(["content-length: ", &length.to_string(), "\r\n"]);
        }
        head += "\r\n";
        head.into_bytes()
    }

    /// Read the next answer.
    ///
    /// # Errors
    /// When the connection ends before it is whole.
    pub fn answer(&mut self) -> io::Result<Response> {
        read_response(&mut self.stream)
    }

    /// Say that nothing more will be sent; answers can still be read.
    pub fn half_close(&mut self) {
        // The server may have closed it altogether: then there is nothing left to close.
        let _ = self.stream.get_ref().shutdown(Shutdown::Write);
    }

    /// Read until `wanted` has come; what came until then.
    ///
    /// # Panics
    /// When the connection ends before.
    #[must_use]
    pub fn until(&mut self, wanted: &str) -> String {
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains(wanted) {
            let more = self.stream.fill_buf().expect("the server sends").to_vec();
            assert!(!more.is_empty(), "the connection ended: {}", String::from_utf8_lossy(&seen));
            self.stream.consume(more.len());
            seen.extend(more);
        }
        String::from_utf8_lossy(&seen).into_owned()
    }

    /// Read until the server closes the connection; what came until then.
    #[must_use]
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Err(why) if why.kind() != io::ErrorKind::ConnectionReset => panic!("the server does not close: {why}"),
            _ => rest,
        }
    }
}

/// Read one answer: interim ones (1xx) come as they are, without a body.
///
/// # Errors
/// When the stream ends before the answer is whole.
pub fn read_response(stream: &mut impl BufRead) -> io::Result<Response> {
    let first = line(stream)?;
    let status = first.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.ok_or_else(|| io::Error::other(format!("no status line: {first:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = line(stream)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut response = Response { status, headers, body: Vec::new() };
    if response.header("transfer-encoding") == Some("chunked") {
        response.body = chunks(stream)?;
    } else if let Some(length) = response.header("content-length") {
        let length: usize = length.parse().map_err(io::Error::other)?;
        response.body.resize(length, 0);
        stream.read_exact(&mut response.body)?;
    }
    Ok(response)
}

/// What a client asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// The request line: method, path, version.
    pub line: String,
    /// Header names in lower case, and their values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("a body of JSON")
    }
}

/// Read one request whose body, if it has one, has a length.
///
/// # Errors
/// When the stream ends before the request is whole.
pub fn read_request(stream: &mut impl BufRead) -> io::Result<Request> {
    let mut request = Request { line: line(stream)?, headers: Vec::new(), body: Vec::new() };
    while let Some((name, value)) = line(stream)?.split_once(':') {
        request.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let length = request.header("content-length").map_or(Ok(0), str::parse).map_err(io::Error::other)?;
    request.body.resize(length, 0);
    stream.read_exact(&mut request.body)?;
    Ok(request)
}

/// A line without its end.
fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if stream.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn chunks(stream: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let size = usize::from_str_radix(&line(stream)?, 16).map_err(io::Error::other)?;
        let start = body.len();
        body.resize(start + size, 0);
        stream.read_exact(&mut body[start..])?;
        line(stream)?;
        if size == 0 {
            return Ok(body);
        }
    }
}

impl Response {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("answers are UTF-8")
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let text = self.text();
        serde_json::from_str(&text).unwrap_or_else(|why| panic!("{} {why}: {text:?}", self.status))
    }

    /// The JSON body of an answer that must have this status.
    #[must_use]
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        self.json()
    }

    /// The message of an error that must have this status and the one shape of errors.
    #[must_use]
    pub fn error(&self, status: u16) -> String {
        let body = self.expect(status);
        assert_eq!(self.header("content-type"), Some("application/json"), "{body}");
        body["error"].as_str().unwrap_or_else(|| panic!("no error message: {body}")).to_owned()
    }
}
