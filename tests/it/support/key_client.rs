//! Keys, and a client that sends one with each request.

use super::Server;
use super::server::{ApiResponse, fetch};
use echoic::app::open_shared;
use echoic::auth::{NewApiKey, generate_key};
use echoic::clock;
use echoic::domain::UserId;
use echoic::domain::key::AuthScope;
use echoic::store::StoredKey;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

impl Server {
    /// Creates a key for a user.
    pub async fn key(&self, user: &str, scope: AuthScope) -> String {
        self.create_stored_key(user, scope).await.0
    }

    /// Creates a key and returns its stored form as well.
    pub async fn create_stored_key(&self, user: &str, scope: AuthScope) -> (String, StoredKey) {
        let terms =
            NewApiKey { user: UserId::new_unchecked(user), name: None, scope, expires_at: None };
        let (text, stored) = generate_key(terms, clock::now()).unwrap();
        self.store_key(&stored).await;
        (text, stored)
    }

    /// Stores a key, as `echoic keys create` does alongside a running server.
    pub async fn store_key(&self, stored: &StoredKey) {
        let store = open_shared(&self.database_url().parse().unwrap()).await.unwrap();
        store.add_key(stored.clone()).await.unwrap();
        store.close().await;
    }

    /// A client that sends this key or token.
    pub fn with_key<'a>(&'a self, key: &'a str) -> KeyClient<'a> {
        KeyClient { server: self, key }
    }
}

/// Sends requests with a key or a token.
#[derive(Clone, Copy)]
pub struct KeyClient<'a> {
    server: &'a Server,
    key: &'a str,
}

impl KeyClient<'_> {
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.server.request(method, path).bearer_auth(self.key)
    }

    pub async fn get(&self, path: &str) -> ApiResponse {
        fetch(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> ApiResponse {
        fetch(self.request(Method::POST, path).json(&body)).await
    }
}
