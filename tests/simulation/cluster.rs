//! What a program runs on: the bus in memory, or a model of a broker, under the same acts.

use crate::program::{Act, Mode, Program};
use crate::run::{DEAD, GROUP, TOPIC};
use keylane::memory::MemoryBroker;
#[cfg(feature = "kafka")]
use keylane::sim::KafkaModel;
use keylane::sim::{Process, World};
use keylane::{Bus, Config, Record};
use std::sync::Arc;

#[derive(Debug, Clone)]
pub(crate) enum Cluster {
    Memory(MemoryBroker),
    #[cfg(feature = "kafka")]
    Kafka(KafkaModel),
}

impl Cluster {
    pub(crate) fn new(program: &Program, world: &World) -> Self {
        match program.mode {
            Mode::Memory | Mode::Expelling => {
                let broker =
                    MemoryBroker::builder().topic_with(TOPIC, program.partitions).topic_with(DEAD, 1);
                Self::Memory(broker.clock(world.clock()).build())
            }
            #[cfg(feature = "kafka")]
            Mode::Kafka | Mode::KafkaCut | Mode::KafkaLog | Mode::KafkaAnew => {
                Self::Kafka(KafkaModel::new(world, &[(TOPIC, program.partitions), (DEAD, 1)]))
            }
        }
    }

    pub(crate) fn connect(&self, process: Process) -> Bus {
        let config = Config::default();
        match self {
            Self::Memory(broker) => broker.connect(config).expect("the defaults are valid"),
            #[cfg(feature = "kafka")]
            Self::Kafka(model) => model.connect(process, config),
        }
    }

    pub(crate) fn records(&self, topic: &str) -> Vec<Record> {
        match self {
            Self::Memory(broker) => broker.records(topic).expect("it was made"),
            #[cfg(feature = "kafka")]
            Self::Kafka(model) => model.records(topic),
        }
    }

    /// Whether the group has committed all that is stored.
    pub(crate) fn is_committed(&self) -> bool {
        match self {
            Self::Memory(broker) => {
                let watermarks = broker.watermarks(GROUP, TOPIC).expect("it was made").unwrap_or_default();
                watermarks.iter().sum::<u64>() == self.records(TOPIC).len() as u64
            }
            #[cfg(feature = "kafka")]
            Self::Kafka(model) => {
                let committed = model.committed(GROUP, TOPIC);
                (0..)
                    .zip(model.ends(TOPIC))
                    .all(|(partition, end)| committed.get(&partition).copied().unwrap_or(0) == end)
            }
        }
    }

    /// Where the group stands, as a person reads it.
    pub(crate) fn positions(&self) -> String {
        match self {
            Self::Memory(broker) => format!("{:?}", broker.watermarks(GROUP, TOPIC)),
            #[cfg(feature = "kafka")]
            Self::Kafka(model) => format!("{:?} of {:?}", model.committed(GROUP, TOPIC), model.ends(TOPIC)),
        }
    }

    pub(crate) fn heal(&self) {
        match self {
            Self::Memory(broker) => broker.faults().clear(),
            #[cfg(feature = "kafka")]
            Self::Kafka(model) => model.heal(),
        }
    }

    /// The brokers reach nobody, or all again. `processes` are those that run.
    pub(crate) fn outage(&self, is_away: bool, processes: &[Process]) {
        match self {
            Self::Memory(broker) => broker.faults().pause_deliveries(is_away),
            #[cfg(feature = "kafka")]
            Self::Kafka(model) => processes.iter().for_each(|process| model.cut(*process, is_away)),
        }
    }

    /// What happens to the broker itself, or what is done to its logs. What was removed.
    pub(crate) fn act(&self, act: Act) -> Vec<Arc<Record>> {
        match self {
            Self::Memory(broker) => {
                let faults = broker.faults();
                match act {
                    Act::Expel(member) => drop(broker.expel(GROUP, member)),
                    Act::FailPublishes(count) => {
                        faults.fail_next_publishes(TOPIC, count);
                        faults.fail_next_publishes(DEAD, count);
                    }
                    Act::LoseSettles(count) => faults.lose_next_settles(count),
                    Act::FailSettles(count) => faults.fail_next_settles(count),
                    _ => unreachable!("{act:?} is not drawn for the bus in memory"),
                }
                Vec::new()
            }
            #[cfg(feature = "kafka")]
            Self::Kafka(model) => match act {
                Act::MakeAnew => model.make_anew(TOPIC),
                Act::Truncate(count) => model.truncate(TOPIC, count),
                Act::Trim(count) => model.trim(TOPIC, count),
                Act::AddPartitions(more) => {
                    model.add_partitions(TOPIC, more);
                    Vec::new()
                }
                Act::WriteTexts => {
                    model.write_texts(GROUP, "kl2:copied");
                    Vec::new()
                }
                Act::OpenTransaction(_) => {
                    model.open_transaction(TOPIC);
                    Vec::new()
                }
                _ => unreachable!("{act:?} is not drawn for Kafka"),
            },
        }
    }

    /// A process reaches no broker, or all again.
    pub(crate) fn cut(&self, process: Process, is_cut: bool) {
        match self {
            Self::Memory(_) => unreachable!("no process is cut off from what is in it"),
            #[cfg(feature = "kafka")]
            Self::Kafka(model) => model.cut(process, is_cut),
        }
    }

    /// Whether the broker is in the process, so that what is over is committed at once.
    pub(crate) fn is_memory(&self) -> bool {
        matches!(self, Self::Memory(_))
    }
}
