//! A client of one kept-alive connection that knows when the last byte of a body was sent.

use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Longest answer that is read.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// Longest wait for an answer: a server that needs longer has failed the load.
const PATIENCE: Duration = Duration::from_secs(120);

/// A connection to a server on this machine.
pub struct Client {
    reader: BufReader<TcpStream>,
    writer: TcpStream,
    host: String,
    line: String,
}

/// What a server said.
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
    /// From the last byte of the request to the first line of the answer.
    pub waited: Duration,
    /// When the last byte of the request was handed to the kernel.
    pub sent_at: Instant,
}

impl Answer {
    pub fn is_good(&self) -> bool {
        (200..300).contains(&self.status)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    pub fn connect(port: u16) -> std::io::Result<Client> {
        let writer = TcpStream::connect(("127.0.0.1", port))?;
        writer.set_nodelay(true)?;
        writer.set_read_timeout(Some(PATIENCE))?;
        writer.set_write_timeout(Some(PATIENCE))?;
        let reader = BufReader::new(writer.try_clone()?);
        Ok(Client { reader, writer, host: format!("127.0.0.1:{port}"), line: String::new() })
    }

    /// Gives the connection, for whoever may want to end it.
    pub fn stream(&self) -> std::io::Result<TcpStream> {
        self.writer.try_clone()
    }

    pub fn get(&mut self, path: &str) -> std::io::Result<Answer> {
        self.request("GET", path, "", &[])
    }

    /// Sends a request and reads its answer. `headers` are whole lines, each with its `\r\n`.
    pub fn request(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> std::io::Result<Answer> {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Length: {}\r\n\r\n",
            self.host,
            body.len()
        );
        self.send(head.as_bytes(), body)?;
        let sent_at = Instant::now();
        self.next_line()?;
        let waited = sent_at.elapsed();
        let status = self.line.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let body = self.read_answer(status)?;
        Ok(Answer { status, body, waited, sent_at })
    }

    /// Head and body in one system call, as far as the kernel takes them.
    fn send(&mut self, head: &[u8], body: &[u8]) -> std::io::Result<()> {
        let sent = self.writer.write_vectored(&[IoSlice::new(head), IoSlice::new(body)])?;
        self.writer.write_all(head.get(sent..).unwrap_or_default())?;
        self.writer.write_all(body.get(sent.saturating_sub(head.len())..).unwrap_or_default())
    }

    fn next_line(&mut self) -> std::io::Result<()> {
        self.line.clear();
        match self.reader.read_line(&mut self.line)? {
            0 => Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            _ => Ok(()),
        }
    }

    fn read_answer(&mut self, status: u16) -> std::io::Result<Vec<u8>> {
        let (mut length, mut chunked) = (0usize, false);
        loop {
            self.next_line()?;
            if self.line == "\r\n" {
                break;
            }
            let Some((name, value)) = self.line.split_once(':') else { continue };
            if name.eq_ignore_ascii_case("content-length") {
                length = value.trim().parse().unwrap_or(0);
            }
            chunked |= name.eq_ignore_ascii_case("transfer-encoding") && value.trim().eq_ignore_ascii_case("chunked");
        }
        let mut body = Vec::new();
        if status == 204 || status == 304 {
            return Ok(body);
        }
        if !chunked {
            self.take(length, &mut body)?;
            return Ok(body);
        }
        loop {
            self.next_line()?;
            let size = usize::from_str_radix(self.line.trim(), 16).unwrap_or(0);
            self.take(size, &mut body)?;
            self.next_line()?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    fn take(&mut self, bytes: usize, into: &mut Vec<u8>) -> std::io::Result<()> {
        let start = into.len();
        if start + bytes > ANSWER_BYTES_MAX {
            return Err(std::io::Error::other("the answer is too long"));
        }
        into.resize(start + bytes, 0);
        self.reader.read_exact(&mut into[start..])
    }
}

/// Writes a text so that it may stand in a query string.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 3);
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn answers_of_both_shapes_are_read_to_their_end() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut reader = BufReader::new(stream.try_clone().expect("a copy"));
            for answer in [
                "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\na\r\n0123456789\r\n0\r\n\r\n",
                "HTTP/1.1 204 No Content\r\n\r\n",
            ] {
                let mut line = String::new();
                while reader.read_line(&mut line).expect("a line") > 2 {
                    line.clear();
                }
                stream.write_all(answer.as_bytes()).expect("written");
            }
        });
        let mut client = Client::connect(port).expect("a connection");
        for wanted in ["abc", "de0123456789", ""] {
            let answer = client.get("/x").expect("an answer");
            assert!(answer.is_good());
            assert_eq!(answer.text(), wanted);
        }
        server.join().expect("the server");
    }

    #[test]
    fn what_a_query_holds_is_escaped() {
        assert_eq!(escaped("a{b=~\"c.+\"}"), "a%7Bb%3D~%22c.%2B%22%7D");
    }
}
