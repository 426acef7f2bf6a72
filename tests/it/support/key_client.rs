//! Keys, and a client that sends one with each request.

use super::Server;
use super::server::{Reply, read};
use echoic::app::open_beside;
use echoic::auth::{KeyTerms, new_key};
use echoic::clock;
use echoic::domain::UserId;
use echoic::domain::key::Scope;
use echoic::store::StoredKey;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

impl Server {
    /// Creates a key for a user.
    pub async fn key(&self, user: &str, scope: Scope) -> String {
        self.stored_key(user, scope).await.0
    }

    /// Creates a key and returns its stored form as well.
    pub async fn stored_key(&self, user: &str, scope: Scope) -> (String, StoredKey) {
        let terms = KeyTerms { user: UserId::trusted(user), name: None, scope, expires_at: None };
        let (text, stored) = new_key(terms, clock::now()).unwrap();
        self.keep_key(&stored).await;
        (text, stored)
    }

    /// Stores a key, as `echoic keys create` does alongside a running server.
    pub async fn keep_key(&self, stored: &StoredKey) {
        let store = open_beside(&self.database_url().parse().unwrap()).await.unwrap();
        store.add_key(stored.clone()).await.unwrap();
        store.close().await;
    }

    /// A client that sends this key or token.
    pub fn with_key<'a>(&'a self, key: &'a str) -> Asking<'a> {
        Asking { server: self, key }
    }
}

/// Sends requests with a key or a token.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    server: &'a Server,
    key: &'a str,
}

impl Asking<'_> {
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.server.request(method, path).bearer_auth(self.key)
    }

    pub async fn get(&self, path: &str) -> Reply {
        read(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Reply {
        read(self.request(Method::POST, path).json(&body)).await
    }
}
