//! `ECHOIC_AUTH=jwt`: valid tokens, and every kind of invalid one.

use crate::support::server::{ApiResponse, quick_heartbeat, tuning};
use crate::support::{EventListener, Server, within_deadline};
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use echoic::app::TimingOptions;
use echoic::clock;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const SECRET: &str = "a secret of more than thirty-two bytes";

fn in_seconds(seconds: i64) -> i64 {
    clock::now().as_seconds() + seconds
}

fn claims() -> Value {
    json!({"sub": "alice", "exp": in_seconds(600), "iss": "https://id.example", "aud": ["echoic", "x"]})
}

fn claims_with(field: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[field] = value;
    claims
}

fn sign_claims(claims: &Value, secret: &[u8]) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret)).unwrap()
}

/// A token with a hand-written header and the given signature.
fn token_with_header(header: Value, claims: &Value, signature: &str) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.{signature}", part(&header), part(claims))
}

async fn list_sessions(server: &Server, token: &str) -> ApiResponse {
    server.with_key(token).get("/api/chat-sessions").await
}

#[tokio::test]
async fn valid_token_names_the_user_and_bad_ones_are_rejected() {
    let secret = format!("--jwt-secret={SECRET}");
    let flags = ["--auth=jwt", &secret, "--jwt-issuer=https://id.example", "--jwt-audience=echoic"];
    let server = Server::with(&flags).await;
    let good = sign_claims(&claims(), SECRET.as_bytes());
    let made = server.with_key(&good).post("/api/chat-sessions", json!({})).await;
    assert_eq!(made.data()["userId"], "alice");
    // Five seconds are within the allowed clock skew.
    let late = sign_claims(&claims_with("exp", json!(in_seconds(-5))), SECRET.as_bytes());
    assert_eq!(list_sessions(&server, &late).await.status, 200);

    let own = |claims: Value| sign_claims(&claims, SECRET.as_bytes());
    let without = |field: &str| {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(field);
        own(claims)
    };
    let with_extensions = |names: &[&str]| {
        let crit = Some(names.iter().map(ToString::to_string).collect());
        let header = Header { crit, ..Header::new(Algorithm::HS256) };
        encode(&header, &claims(), &EncodingKey::from_secret(SECRET.as_bytes())).unwrap()
    };
    let longer = encode(
        &Header::new(Algorithm::HS512),
        &claims(),
        &EncodingKey::from_secret(SECRET.as_bytes()),
    );
    let bad = [
        ("expired", own(claims_with("exp", json!(in_seconds(-60))))),
        ("without an end", without("exp")),
        ("an end in words", own(claims_with("exp", json!("tomorrow")))),
        ("not yet good", own(claims_with("nbf", json!(in_seconds(90))))),
        ("of nobody", without("sub")),
        ("of a number", own(claims_with("sub", json!(7)))),
        ("of a blank", own(claims_with("sub", json!(" ")))),
        ("of the assistant", own(claims_with("sub", json!("assistant")))),
        ("of another issuer", own(claims_with("iss", json!("https://evil.example")))),
        ("of no issuer", without("iss")),
        ("of a list of issuers", own(claims_with("iss", json!(["https://id.example"])))),
        ("with an extension", with_extensions(&["b64"])),
        ("with a known field as extension", with_extensions(&["exp"])),
        ("with an empty list of extensions", with_extensions(&[])),
        ("for another", own(claims_with("aud", json!("another")))),
        ("for nobody", without("aud")),
        ("truncated", good[..good.len() - 2].to_owned()),
        ("without a signature", good.rsplit_once('.').unwrap().0.to_owned()),
        ("with an empty one", format!("{}.", good.rsplit_once('.').unwrap().0)),
        ("wrongly signed", sign_claims(&claims(), b"another secret of thirty-two bytes")),
        ("alg none", token_with_header(json!({"alg": "none", "typ": "JWT"}), &claims(), "")),
        ("alg None", token_with_header(json!({"alg": "None"}), &claims(), "")),
        ("another algorithm", longer.unwrap()),
        ("RS256 with a secret", token_with_header(json!({"alg": "RS256"}), &claims(), "AAAA")),
        ("no token", "a.b.c".to_owned()),
        ("too long", own(claims_with("sub", json!("x".repeat(20_000))))),
    ];
    for (what, token) in bad {
        assert_eq!(
            list_sessions(&server, &token).await.failure(),
            (401, "unauthenticated"),
            "{what}"
        );
    }
}

#[tokio::test]
async fn event_stream_ends_when_its_token_expires() {
    let flags = ["--auth=jwt", &format!("--jwt-secret={SECRET}")];
    let server = Server::tuned(&flags, quick_heartbeat()).await;
    // Expired for 29 of the 30 seconds of allowed clock skew: valid for one or two seconds more.
    let late = sign_claims(&claims_with("exp", json!(in_seconds(-29))), SECRET.as_bytes());
    let listen = server.with_key(&late).request(Method::GET, "/api/events").send();
    let mut events = EventListener::opened(listen.await.unwrap()).await;
    within_deadline(events.end()).await;
    assert_eq!(list_sessions(&server, &late).await.status, 401);
}

#[tokio::test]
async fn admin_claim_makes_an_admin() {
    let server = Server::with(&["--auth=jwt", &format!("--jwt-secret={SECRET}")]).await;
    let token = |claims: Value| sign_claims(&claims, SECRET.as_bytes());
    let alice = token(claims());
    let made = server.with_key(&alice).post("/api/chat-sessions", json!({"sessionId": "a"})).await;
    assert_eq!(made.status, 201);
    for (role, status) in [(json!("admin"), 200), (json!("user"), 404), (json!(["admin"]), 404)] {
        let mut claims = claims_with("sub", json!("root"));
        claims["role"] = role;
        let seen = server.with_key(&token(claims)).get("/api/chat-sessions/a").await;
        assert_eq!(seen.status, status, "{}", seen.body);
    }
}

#[tokio::test]
async fn issuer_must_be_a_string_even_if_none_is_required() {
    let server = Server::with(&["--auth=jwt", &format!("--jwt-secret={SECRET}")]).await;
    let status = async |iss: Value| {
        let token = sign_claims(&claims_with("iss", iss), SECRET.as_bytes());
        list_sessions(&server, &token).await.status
    };
    assert_eq!(status(json!("anyone")).await, 200);
    for iss in [json!(["https://id.example"]), json!([]), json!(7), json!({}), Value::Null] {
        assert_eq!(status(iss.clone()).await, 401, "{iss}");
    }
}

#[tokio::test]
async fn token_with_critical_extensions_is_rejected() {
    let server = Server::with(&["--auth=jwt", &format!("--jwt-secret={SECRET}")]).await;
    let status = async |header: Value| {
        let unsigned = token_with_header(header, &claims(), "");
        let text = unsigned.trim_end_matches('.');
        let key = EncodingKey::from_secret(SECRET.as_bytes());
        let signature =
            jsonwebtoken::crypto::sign(text.as_bytes(), &key, Algorithm::HS256).unwrap();
        list_sessions(&server, &format!("{text}.{signature}")).await.status
    };
    assert_eq!(status(json!({"alg": "HS256", "exp2": 1, "b64": false})).await, 200);
    for crit in
        [json!(["exp2"]), json!(["b64"]), json!(["exp"]), json!([]), json!("x"), Value::Null]
    {
        let header = json!({"alg": "HS256", "crit": crit, "exp2": 1, "b64": false});
        assert_eq!(status(header).await, 401, "{crit}");
    }
}

#[tokio::test]
async fn key_set_needs_an_audience_or_leave_to_ignore_it() {
    let rsa = Signer::rsa("one");
    let issuer = Issuer::start(&[&rsa]).await;
    let url = format!("--jwt-jwks-url={}", issuer.url);
    let folder = tempfile::tempdir().unwrap();
    let variables = [("PORT", "0".to_owned())].into();
    let flags = ["serve", "--auth=jwt", &url];
    let (code, _, stderr) = crate::support::process::run(folder.path(), &variables, &flags).await;
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("JWT_AUDIENCE") && stderr.contains("JWT_ANY_AUDIENCE"), "{stderr}");
    let other_audience = rsa.token(&claims_with("aud", json!("another application")));
    for (flag, status) in [("--jwt-audience=echoic", 401), ("--jwt-any-audience", 200)] {
        let server = Server::with(&["--auth=jwt", &url, flag]).await;
        assert_eq!(list_sessions(&server, &other_audience).await.status, status, "{flag}");
    }
}

#[tokio::test]
async fn guessable_secret_stops_startup() {
    let folder = tempfile::tempdir().unwrap();
    let variables = [("ECHOIC_AUTH", "jwt"), ("JWT_SECRET", "hunter2"), ("PORT", "0")];
    let variables = variables.map(|(name, value)| (name, value.to_owned())).into();
    let (code, _, stderr) = crate::support::process::run(folder.path(), &variables, &[]).await;
    assert!(code != 0 && stderr.contains("JWT_SECRET must have at least 32 bytes"), "{stderr}");
    assert!(!stderr.contains("hunter2"), "{stderr}");
}

/// A key pair of an issuer.
struct Signer {
    id: &'static str,
    algorithm: Algorithm,
    key: EncodingKey,
}

impl Signer {
    fn rsa(id: &'static str) -> Self {
        let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
        let der: Pkcs8V1Der<'_> = pair.as_der().unwrap();
        // A PKCS#8 key is a 26-byte header and the PKCS#1 key.
        Self {
            id,
            algorithm: Algorithm::RS256,
            key: EncodingKey::from_rsa_der(&der.as_ref()[26..]),
        }
    }

    fn ec(id: &'static str) -> Self {
        let (signing, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let pair = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
        Self { id, algorithm: Algorithm::ES256, key: EncodingKey::from_ec_der(pair.as_ref()) }
    }

    fn public(&self) -> Value {
        let mut jwk = Jwk::from_encoding_key(&self.key, self.algorithm).unwrap();
        jwk.common.key_id = Some(self.id.to_owned());
        serde_json::to_value(jwk).unwrap()
    }

    fn token(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.to_owned()), ..Header::new(self.algorithm) };
        encode(&header, claims, &self.key).unwrap()
    }
}

/// Publishes a JWKS and counts how often it is fetched.
#[derive(Clone)]
struct Issuer {
    url: String,
    keys: Arc<Mutex<Vec<Value>>>,
    fetched: Arc<Mutex<u32>>,
}

impl Issuer {
    async fn start(keys: &[&Signer]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let issuer = Self { url, keys: Arc::default(), fetched: Arc::default() };
        issuer.publish(keys);
        let own = issuer.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut asked = [0; 4096];
                let _ = stream.read(&mut asked).await;
                *own.fetched.lock().unwrap() += 1;
                let body = json!({"keys": own.keys.lock().unwrap().clone()}).to_string();
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all((head + &body).as_bytes()).await;
            }
        });
        issuer
    }

    fn publish(&self, keys: &[&Signer]) {
        // Keys of unknown types in the set are ignored.
        let odd = json!({"kty": "OKP-2", "kid": "odd"});
        let keys = keys.iter().map(|signer| signer.public());
        *self.keys.lock().unwrap() = [odd].into_iter().chain(keys).collect();
    }

    fn fetch_count(&self) -> u32 {
        *self.fetched.lock().unwrap()
    }

    async fn server(&self, jwks_pause: Duration) -> Server {
        let url = format!("--jwt-jwks-url={}", self.url);
        Server::tuned(
            &["--auth=jwt", &url, "--jwt-audience=echoic"],
            TimingOptions { jwks_retry_delay: jwks_pause, ..tuning() },
        )
        .await
    }
}

#[tokio::test]
async fn jwks_is_fetched_once_and_again_after_rotation() {
    let (first, second) = (Signer::rsa("one"), Signer::ec("two"));
    let issuer = Issuer::start(&[&first]).await;
    let server = issuer.server(Duration::ZERO).await;
    assert_eq!(issuer.fetch_count(), 0, "no key set was fetched yet");
    for _ in 0..3 {
        assert_eq!(list_sessions(&server, &first.token(&claims())).await.status, 200);
    }
    assert_eq!(issuer.fetch_count(), 1);
    issuer.publish(&[&second]);
    assert_eq!(list_sessions(&server, &second.token(&claims())).await.status, 200);
    assert_eq!(issuer.fetch_count(), 2);
    assert_eq!(
        list_sessions(&server, &first.token(&claims())).await.status,
        401,
        "it was taken back"
    );
}

#[tokio::test]
async fn unknown_key_ids_do_not_refetch_the_jwks_each_time() {
    let signer = Signer::ec("one");
    let issuer = Issuer::start(&[&signer]).await;
    let server = issuer.server(Duration::from_secs(3600)).await;
    assert_eq!(list_sessions(&server, &signer.token(&claims())).await.status, 200);
    for id in ["a", "b", "c"] {
        let invented = Signer { id, ..Signer::ec("x") };
        assert_eq!(list_sessions(&server, &invented.token(&claims())).await.status, 401);
    }
    assert_eq!(issuer.fetch_count(), 1);
}

#[tokio::test]
async fn published_key_verifies_only_its_own_algorithm() {
    let (rsa, stranger) = (Signer::rsa("one"), Signer::rsa("one"));
    let issuer = Issuer::start(&[&rsa]).await;
    let server = issuer.server(Duration::ZERO).await;
    let public = rsa.public();
    let modulus = URL_SAFE_NO_PAD.decode(public["n"].as_str().unwrap()).unwrap();
    let confused = |secret: &[u8]| {
        let header = Header { kid: Some("one".to_owned()), ..Header::new(Algorithm::HS256) };
        encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap()
    };
    for (what, token) in [
        ("signed by another", stranger.token(&claims())),
        ("the public key as a secret", confused(&modulus)),
        ("its text as a secret", confused(public.to_string().as_bytes())),
        ("alg none", token_with_header(json!({"alg": "none", "kid": "one"}), &claims(), "")),
        ("a key of its own", {
            let header = json!({"alg": "RS256", "kid": "one", "jwk": stranger.public()});
            let other = stranger.token(&claims());
            token_with_header(header, &claims(), other.rsplit_once('.').unwrap().1)
        }),
        ("expired", rsa.token(&claims_with("exp", json!(in_seconds(-60))))),
    ] {
        assert_eq!(
            list_sessions(&server, &token).await.failure(),
            (401, "unauthenticated"),
            "{what}"
        );
    }
    assert_eq!(list_sessions(&server, &rsa.token(&claims())).await.status, 200);
}

#[tokio::test]
async fn unavailable_jwks_is_not_reported_as_a_bad_token() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("--jwt-jwks-url=http://{}/keys", listener.local_addr().unwrap());
    drop(listener);
    let server = Server::with(&["--auth=jwt", &url, "--jwt-any-audience"]).await;
    let reply = within_deadline(list_sessions(&server, &Signer::ec("one").token(&claims()))).await;
    assert_eq!(reply.failure(), (503, "auth_unavailable"));
}
