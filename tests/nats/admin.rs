//! What an operator does on a server, by the client that the backend uses, and not by the backend.

use crate::support::servers::{self, Server};
use async_nats::jetstream::{Context, consumer, stream};
use std::path::Path;
use tokio::runtime::{Builder, Runtime};

pub struct Admin {
    runtime: Runtime,
    jetstream: Context,
}

impl Admin {
    pub fn of(server: &Server) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("threads");
        let address = format!("127.0.0.1:{}", server.port);
        let jetstream = runtime.block_on(async {
            async_nats::jetstream::new(async_nats::connect(address).await.expect("the server takes anybody"))
        });
        Self { runtime, jetstream }
    }

    pub fn stream(&self, name: &str) -> stream::Info {
        self.runtime.block_on(async {
            self.jetstream.get_stream(name).await.expect("it is there").get_info().await.expect("it answers")
        })
    }

    pub fn consumer(&self, stream: &str, name: &str) -> consumer::Info {
        self.runtime.block_on(async {
            let stream = self.jetstream.get_stream(stream).await.expect("it is there");
            stream.consumer_info(name).await.expect("it is there")
        })
    }

    /// What stands in the record of who owns the topic of this consumer.
    pub fn lease(&self, stream: &str, consumer: &str) -> Option<String> {
        self.runtime.block_on(async {
            let leases = self.jetstream.get_stream("KEYLANE_LEASES").await.ok()?;
            let subject = format!("keylane.lease.{stream}.{consumer}");
            let record = leases.get_last_raw_message_by_subject(&subject).await.ok()?;
            Some(String::from_utf8_lossy(&record.payload).into_owned())
        })
    }

    /// A request to JetStream, with this text; what the server answers.
    pub fn api(&self, request: &str, text: &'static str) -> String {
        self.runtime.block_on(async {
            let request = format!("$JS.API.{request}");
            let answer = self.jetstream.client().request(request, text.into()).await.expect("it is answered");
            String::from_utf8_lossy(&answer.payload).into_owned()
        })
    }

    /// Pulls so many messages from a consumer with a priority group, and acknowledges them.
    pub fn take_as_pinned(&self, stream: &str, consumer: &str, group: &str, messages: usize) {
        let client = self.jetstream.client();
        self.runtime.block_on(async {
            let inbox = client.new_inbox();
            let mut came = client.subscribe(inbox.clone()).await.expect("it is allowed");
            let request = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
            let pull = format!(r#"{{"batch":{messages},"group":"{group}","expires":5000000000}}"#);
            client.publish_with_reply(request, inbox, pull.into()).await.expect("it is sent");
            for _ in 0..messages {
                let message = futures_util::StreamExt::next(&mut came).await.expect("it comes");
                let reply = message.reply.expect("a delivery has one");
                client.request(reply, "+ACK".into()).await.expect("it is acknowledged");
            }
        });
    }

    /// So many messages and no more, and publishes beyond that are refused.
    pub fn limit_stream(&self, name: &str, messages: i64) {
        let mut config = self.stream(name).config;
        config.max_messages = messages;
        self.runtime.block_on(self.jetstream.update_stream(config)).expect("it is changed");
    }

    pub fn purge(&self, name: &str) {
        self.runtime.block_on(async {
            self.jetstream.get_stream(name).await.expect("it is there").purge().await.expect("it is emptied");
        });
    }

    /// Removes all messages of these subjects.
    pub fn purge_subjects(&self, name: &str, subjects: &str) {
        self.runtime.block_on(async {
            let stream = self.jetstream.get_stream(name).await.expect("it is there");
            stream.purge().filter(subjects).await.expect("they are removed");
        });
    }

    /// Removes all messages before this one.
    pub fn purge_before(&self, name: &str, sequence: u64) {
        self.runtime.block_on(async {
            let stream = self.jetstream.get_stream(name).await.expect("it is there");
            stream.purge().sequence(sequence).await.expect("they are removed");
        });
    }

    /// Changes the configuration of a stream.
    pub fn configure(&self, name: &str, change: impl FnOnce(&mut stream::Config)) {
        let mut config = self.stream(name).config;
        change(&mut config);
        self.runtime.block_on(self.jetstream.update_stream(config)).expect("it is changed");
    }

    /// Creates a stream as an operator does.
    pub fn create(&self, config: stream::Config) {
        self.runtime.block_on(self.jetstream.create_stream(config)).expect("it is created");
    }

    /// Suspends a consumer, or lets it go on.
    pub fn pause(&self, stream: &str, name: &str, is_paused: bool) {
        let hour = std::time::Duration::from_secs(3_600);
        self.runtime.block_on(async {
            let stream = self.jetstream.get_stream(stream).await.expect("it is there");
            if is_paused {
                let until = std::time::SystemTime::now() + hour;
                stream.pause_consumer(name, until.into()).await.expect("it is paused");
            } else {
                stream.resume_consumer(name).await.expect("it goes on");
            }
        });
    }

    pub fn delete_message(&self, stream: &str, sequence: u64) {
        self.runtime.block_on(async {
            let stream = self.jetstream.get_stream(stream).await.expect("it is there");
            stream.delete_message(sequence).await.expect("it was there");
        });
    }

    /// Deletes the stream and makes it again, with so many records in it, numbered from 0, before anybody looks.
    pub fn make_anew(&self, name: &str, records: u64) {
        let config = self.stream(name).config;
        self.runtime.block_on(async {
            self.jetstream.delete_stream(name).await.expect("it was there");
            self.jetstream.create_stream(config).await.expect("it is made again");
            for n in 0..records {
                self.jetstream
                    .publish(format!("{name}.key"), n.to_string().into())
                    .await
                    .expect("sent")
                    .await
                    .expect("stored");
            }
        });
    }

    pub fn delete_consumer(&self, stream: &str, name: &str) {
        self.runtime.block_on(async {
            let stream = self.jetstream.get_stream(stream).await.expect("it is there");
            stream.delete_consumer(name).await.expect("it was there");
        });
    }

    /// Publishes as somebody who knows nothing of keylane.
    pub fn publish(&self, subject: &str, payload: &'static str) {
        self.runtime.block_on(async {
            self.jetstream
                .publish(subject.to_owned(), payload.into())
                .await
                .expect("sent")
                .await
                .expect("stored");
        });
    }

    /// Acknowledgements that clients send from now on: with a reply, or without.
    pub fn watch_acks(&self, stream: &str) -> tokio::sync::mpsc::UnboundedReceiver<bool> {
        let (tell, told) = tokio::sync::mpsc::unbounded_channel();
        let client = self.jetstream.client();
        let subject = format!("$JS.ACK.{stream}.>");
        let mut acks = self.runtime.block_on(async {
            let acks = client.subscribe(subject).await.expect("it is allowed");
            client.flush().await.expect("it is sent");
            acks
        });
        self.runtime.spawn(async move {
            while let Some(ack) = futures_util::StreamExt::next(&mut acks).await {
                if ack.payload.starts_with(b"+ACK") && tell.send(ack.reply.is_some()).is_err() {
                    return;
                }
            }
        });
        told
    }
}

/// A server with this in its configuration file.
pub fn configured(name: &str, config: &str) -> Server {
    let path =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("nats-{name}-{}.conf", std::process::id()));
    std::fs::write(&path, config).expect("target can be written");
    servers::nats(&["--config", &path.to_string_lossy()])
}
