//! Settings of the embeddings endpoint, which adds semantic recall.

use clap::Args;

/// An OpenAI-compatible embeddings endpoint.
#[derive(Debug, Clone, Default, Args)]
pub struct EmbeddingsConfig {
    /// Base URL of an OpenAI-compatible embeddings endpoint, …/v1; enables semantic recall
    #[arg(
        long = "embeddings-url",
        id = "embeddings_url",
        value_name = "URL",
        env = "ECHOIC_EMBEDDINGS_URL",
        hide_env_values = true
    )]
    pub url: Option<String>,
    /// Model of the embeddings endpoint, required with it
    #[arg(
        long = "embeddings-model",
        id = "embeddings_model",
        value_name = "MODEL",
        env = "ECHOIC_EMBEDDINGS_MODEL"
    )]
    pub model: Option<String>,
    /// API key of the embeddings endpoint
    #[arg(
        long = "embeddings-key",
        id = "embeddings_key",
        value_name = "KEY",
        env = "ECHOIC_EMBEDDINGS_KEY",
        hide_env_values = true
    )]
    pub key: Option<String>,
}
