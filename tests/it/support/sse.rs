//! Reads a stream of frames, frame by frame.

use super::within_deadline;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use serde_json::Value;

#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    pub id: String,
    /// The JSON, or the string `[DONE]`.
    pub data: Value,
}

impl Frame {
    pub fn kind(&self) -> &str {
        self.data["type"].as_str().unwrap_or_else(|| self.data.as_str().unwrap())
    }
}

/// A reader of a stream.
pub struct FrameReader {
    body: BoxStream<'static, reqwest::Result<Bytes>>,
    buffer: String,
    /// Comment lines read so far.
    pub comments: usize,
    /// All bytes read so far.
    pub bytes: String,
}

impl FrameReader {
    pub fn new(response: reqwest::Response) -> Self {
        Self {
            body: response.bytes_stream().boxed(),
            buffer: String::new(),
            comments: 0,
            bytes: String::new(),
        }
    }

    /// The next frame; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Frame> {
        self.try_next().await.expect("the stream goes on")
    }

    /// Like `next`, for a server that may break the connection.
    pub async fn try_next(&mut self) -> reqwest::Result<Option<Frame>> {
        loop {
            while let Some((block, rest)) = self.buffer.split_once("\n\n") {
                let block = block.to_owned();
                self.buffer = rest.to_owned();
                if block.starts_with(':') {
                    self.comments += 1;
                    continue;
                }
                let (id, data) = block.split_once('\n').expect("an id line and a data line");
                let data = data.strip_prefix("data: ").expect("a data line");
                return Ok(Some(Frame {
                    id: id.strip_prefix("id: ").expect("an id line").to_owned(),
                    data: serde_json::from_str(data).unwrap_or_else(|_| Value::from(data)),
                }));
            }
            if !self.read().await? {
                return Ok(None);
            }
        }
    }

    /// Reads the next bytes. Returns false at the end of the stream.
    async fn read(&mut self) -> reqwest::Result<bool> {
        let Some(bytes) = within_deadline(self.body.next()).await.transpose()? else {
            return Ok(false);
        };
        let text = std::str::from_utf8(&bytes).expect("frames are cut between characters");
        self.buffer.push_str(text);
        self.bytes.push_str(text);
        Ok(true)
    }

    /// The next frame of a kind; others are skipped.
    #[track_caller]
    pub fn until(&mut self, kind: &str) -> impl Future<Output = Frame> {
        let caller = std::panic::Location::caller();
        async move {
            while let Some(frame) = self.next().await {
                if frame.kind() == kind {
                    return frame;
                }
            }
            panic!("the stream ended without the frame {kind} that {caller} waits for");
        }
    }

    /// Waits for a comment, which is the heartbeat.
    pub async fn wait_for_comment(&mut self) {
        let before = self.comments;
        while self.comments == before {
            assert!(self.read().await.unwrap(), "the stream goes on");
            while let Some((block, rest)) = self.buffer.split_once("\n\n") {
                assert!(block.starts_with(':'), "only comments are expected here");
                self.comments += 1;
                self.buffer = rest.to_owned();
            }
        }
    }

    /// All remaining frames.
    pub async fn rest(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }
}

/// The text of all deltas.
pub fn text_of(frames: &[Frame]) -> String {
    let deltas = frames.iter().filter(|frame| frame.kind() == "text-delta");
    deltas.map(|frame| frame.data["delta"].as_str().unwrap()).collect()
}
