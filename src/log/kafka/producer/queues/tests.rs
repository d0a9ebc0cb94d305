use kafka_protocol::{
    messages::{
        BrokerId, TopicName,
        metadata_response::{
            MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
        },
    },
    protocol::StrBytes,
};
use tokio::sync::oneshot;

use super::*;

const ME: ProducerId = ProducerId { id: 7, epoch: 0 };
type Answer = oneshot::Receiver<Result<Vec<Position>, LogError>>;

/// Metadata of the topic `in` with these leaders of its partitions; -1: none.
fn led_by(leaders: &[i32]) -> MetadataResponse {
    let broker = |id| {
        MetadataResponseBroker::default()
            .with_node_id(BrokerId(id))
            .with_host(StrBytes::from_static_str("somewhere"))
            .with_port(9092)
    };
    let partition = |(index, leader): (usize, &i32)| {
        MetadataResponsePartition::default()
            .with_partition_index(index as i32)
            .with_leader_id(BrokerId(*leader))
    };
    let topic = MetadataResponseTopic::default()
        .with_name(Some(TopicName(StrBytes::from_static_str("in"))))
        .with_partitions(leaders.iter().enumerate().map(partition).collect());
    MetadataResponse::default()
        .with_brokers(vec![broker(1), broker(2)])
        .with_topics(vec![topic])
}

fn learn(queues: &mut Queues, metadata: &MetadataResponse) {
    let mut ended = Ended::default();
    queues.update_metadata(metadata, &mut ended);
    ended.notify();
}

fn push(queues: &mut Queues, value: &str) -> Answer {
    let (answer, acknowledged) = oneshot::channel();
    let call = Arc::new(Call::of(1, None, answer));
    let append = Output {
        topic: "in".into(),
        partition: None,
        record: Record {
            key: Some(Bytes::from_static(b"k")),
            value: Some(Bytes::copy_from_slice(value.as_bytes())),
            headers: Vec::new(),
        },
    };
    if let Err(error) = queues.push(append, &call, 0) {
        call.done(0, Err(error));
    }
    call.handed_over();
    acknowledged
}

fn values(batch: &Batch) -> Vec<String> {
    let text = |r: &Record| String::from_utf8(r.value.clone().unwrap().to_vec()).unwrap();
    batch.records().map(text).collect()
}

fn one(queues: &mut Queues, broker: i32, producer: ProducerId) -> Batch {
    let mut batches = queues.take(broker, producer);
    assert_eq!(batches.len(), 1);
    batches.remove(0)
}

fn delivered(queues: &mut Queues, batch: Batch, first: u64) {
    let mut ended = Ended::default();
    queues.delivered(batch, first, &mut ended);
    ended.notify();
}

#[test]
fn records_wait_for_their_partitions_and_go_in_order() {
    let mut queues = Queues::default();
    let mut first = push(&mut queues, "a");
    assert!(queues.stale, "who leads it is asked for");
    learn(&mut queues, &led_by(&[1]));
    assert!(!queues.stale);
    let batch = one(&mut queues, 1, ME);
    assert_eq!((values(&batch), batch.sequence), (vec!["a".to_owned()], 0));
    // While one is in flight, others wait.
    let mut second = push(&mut queues, "b");
    let mut third = push(&mut queues, "c");
    assert!(!queues.has_work(1));
    assert!(queues.take(1, ME).is_empty());
    assert!(first.try_recv().is_err());
    delivered(&mut queues, batch, 10);
    assert_eq!(first.try_recv().unwrap().unwrap()[0].offset, 10);
    let batch = one(&mut queues, 1, ME);
    assert_eq!(
        (values(&batch), batch.sequence),
        (vec!["b".into(), "c".into()], 1)
    );
    delivered(&mut queues, batch, 11);
    assert_eq!(second.try_recv().unwrap().unwrap()[0].offset, 11);
    assert_eq!(third.try_recv().unwrap().unwrap()[0].offset, 12);
    assert_eq!((queues.records, queues.bytes), (0, 0));
}

#[test]
fn a_batch_is_sent_again_unchanged_to_the_new_leader() {
    let mut queues = Queues::default();
    let mut answer = push(&mut queues, "a");
    learn(&mut queues, &led_by(&[1]));
    let batch = one(&mut queues, 1, ME);
    let _later = push(&mut queues, "b");
    queues.retry(batch);
    assert!(queues.stale);
    assert!(queues.take(1, ME).is_empty(), "it has no known leader");
    // It has no leader yet: metadata are requested again.
    learn(&mut queues, &led_by(&[-1]));
    assert!(queues.stale);
    learn(&mut queues, &led_by(&[2]));
    assert!(!queues.has_work(1));
    // It keeps the producer id that numbered it first.
    let other = ProducerId { id: 8, epoch: 0 };
    let batch = one(&mut queues, 2, other);
    assert_eq!(values(&batch), ["a"]);
    assert_eq!((batch.producer, batch.sequence), (ME, 0));
    delivered(&mut queues, batch, 3);
    assert_eq!(answer.try_recv().unwrap().unwrap()[0].offset, 3);
    let batch = one(&mut queues, 2, other);
    assert_eq!((batch.producer, batch.sequence), (other, 0));
}

#[test]
fn records_for_partitions_that_a_recreated_topic_lacks_move_to_others() {
    let partitions = (2..9).find(|n| crate::log::partition_for(b"k", *n) > 0);
    let mut queues = Queues::default();
    let mut first = push(&mut queues, "a");
    learn(&mut queues, &led_by(&vec![1; partitions.unwrap() as usize]));
    let batch = one(&mut queues, 1, ME);
    assert_ne!(batch.partition, 0);
    let mut second = push(&mut queues, "b");
    learn(&mut queues, &led_by(&[1]));
    // Its partition does not exist any more.
    queues.retry(batch);
    let mut third = push(&mut queues, "c");
    learn(&mut queues, &led_by(&[1]));
    assert!(!queues.stale);
    let mut offset = 0;
    while queues.has_work(1) {
        let batch = one(&mut queues, 1, ME);
        assert_eq!(batch.partition, 0);
        let count = batch.records().len() as u64;
        delivered(&mut queues, batch, offset);
        offset += count;
    }
    for answer in [&mut first, &mut second, &mut third] {
        assert_eq!(answer.try_recv().unwrap().unwrap()[0].partition, 0);
    }
    assert_eq!((offset, queues.records, queues.bytes), (3, 0, 0));
}

#[test]
fn records_listed_with_the_old_leader_go_to_the_new_one() {
    let mut queues = Queues::default();
    learn(&mut queues, &led_by(&[1]));
    let _answer = push(&mut queues, "a");
    learn(&mut queues, &led_by(&[1]));
    assert!(queues.has_work(1));
    learn(&mut queues, &led_by(&[2]));
    assert!(queues.take(1, ME).is_empty());
    assert_eq!(values(&one(&mut queues, 2, ME)), ["a"]);
    assert!(queues.take(2, ME).is_empty());
}

#[test]
fn a_topic_added_during_a_metadata_request_is_requested_next() {
    let mut queues = Queues::default();
    let _answer = push(&mut queues, "a");
    let (answer, _acknowledged) = oneshot::channel();
    let call = Arc::new(Call::of(1, None, answer));
    let other = Output {
        topic: "other".into(),
        partition: None,
        record: Record::default(),
    };
    queues.push(other, &call, 0).unwrap();
    learn(&mut queues, &led_by(&[1]));
    assert!(queues.stale);
    // Known, and then missing in the metadata.
    let batch = one(&mut queues, 1, ME);
    queues.retry(batch);
    learn(&mut queues, &led_by(&[]));
    assert!(queues.stale);
}

#[test]
fn a_failed_batch_leaves_no_gap_in_the_sequence_numbers() {
    let mut queues = Queues {
        producer: Some(ME),
        ..Queues::default()
    };
    let mut lost = push(&mut queues, "a");
    learn(&mut queues, &led_by(&[1]));
    let batch = one(&mut queues, 1, ME);
    let mut ended = Ended::default();
    queues.failed(batch, unconfirmed(), &mut ended);
    ended.notify();
    assert!(matches!(
        lost.try_recv().unwrap(),
        Err(LogError::Unavailable(_))
    ));
    assert_eq!(queues.producer, None, "another producer id starts at 0");
}

#[test]
fn a_batch_that_is_too_large_is_halved_and_a_single_record_fails() {
    let mut queues = Queues::default();
    let mut answers: Vec<_> = (0..3).map(|n| push(&mut queues, &n.to_string())).collect();
    learn(&mut queues, &led_by(&[1]));
    let mut offset = 0;
    while queues.has_work(1) {
        let batch = one(&mut queues, 1, ME);
        assert_eq!(batch.sequence, offset);
        let mut ended = Ended::default();
        if batch.records().len() > 1 || values(&batch) == ["2"] {
            queues.too_large(batch, &mut ended);
        } else {
            queues.delivered(batch, offset as u64, &mut ended);
            offset += 1;
        }
        ended.notify();
    }
    assert_eq!(answers[0].try_recv().unwrap().unwrap()[0].offset, 0);
    assert_eq!(answers[1].try_recv().unwrap().unwrap()[0].offset, 1);
    assert!(matches!(
        answers[2].try_recv().unwrap(),
        Err(LogError::TooLarge(_))
    ));
}

#[test]
fn a_refused_batch_makes_the_next_ones_small_for_a_while() {
    let mut queues = Queues {
        producer: Some(ME),
        ..Queues::default()
    };
    let mut sequence = 0;
    // Returns the number of records of the largest accepted batch, and the number of refused batches.
    let mut serve = |queues: &mut Queues, takes: usize| {
        let (mut largest, mut refused) = (0, 0);
        while queues.has_work(1) {
            let batch = one(queues, 1, ME);
            assert_eq!(batch.sequence, sequence);
            let mut ended = Ended::default();
            if batch.size() > takes {
                refused += 1;
                queues.too_large(batch, &mut ended);
            } else {
                let count = batch.records().len();
                largest = largest.max(count);
                queues.delivered(batch, sequence as u64, &mut ended);
                sequence += count as i32;
            }
            ended.notify();
        }
        (largest, refused)
    };
    let mut answers: Vec<_> = (0..64).map(|n| push(&mut queues, &n.to_string())).collect();
    let huge = push(&mut queues, &"x".repeat(500));
    answers.push(push(&mut queues, "behind"));
    learn(&mut queues, &led_by(&[1]));
    let (largest, refused) = serve(&mut queues, 500);
    assert!((2..15).contains(&largest), "{largest}");
    assert!((3..30).contains(&refused), "{refused}");
    assert!(matches!(
        huge.blocking_recv().unwrap(),
        Err(LogError::TooLarge(_))
    ));
    assert!(answers.iter_mut().all(|a| a.try_recv().unwrap().is_ok()));
    assert_eq!(queues.producer, Some(ME), "no number was lost");
    // The limit of the topic is raised, and the batches grow again.
    for _ in 0..200 {
        push(&mut queues, "x");
        serve(&mut queues, BATCH);
    }
    for n in 0..2000 {
        push(&mut queues, &n.to_string());
    }
    assert_eq!(serve(&mut queues, BATCH), (2000, 0));
    // A record that is larger than a batch is sent alone.
    for value in ["a".to_owned(), "x".repeat(BATCH), "b".to_owned()] {
        push(&mut queues, &value);
    }
    assert_eq!(serve(&mut queues, 2 * BATCH), (1, 0));
}

#[test]
fn records_expire_and_the_queue_is_bounded() {
    let mut queues = Queues::default();
    let mut waiting = push(&mut queues, "a");
    let mut huge = push(&mut queues, &"x".repeat(RECORD));
    assert!(matches!(
        huge.try_recv().unwrap(),
        Err(LogError::TooLarge(_))
    ));
    let mut ended = Ended::default();
    queues.expire(Instant::now() + DELIVERY_TIMEOUT, &mut ended);
    ended.notify();
    assert!(matches!(
        waiting.try_recv().unwrap(),
        Err(LogError::Unavailable(_))
    ));
    assert_eq!((queues.records, queues.bytes), (0, 0));
    let half = "x".repeat(BATCH / 2);
    let mut answers: Vec<_> = (0..300).map(|_| push(&mut queues, &half)).collect();
    assert!(queues.bytes <= MOST_BYTES);
    let full = answers.last_mut().unwrap().try_recv().unwrap();
    assert!(matches!(full, Err(LogError::Unavailable(_))));
    // Closing fails all waiting calls.
    let mut ended = Ended::default();
    queues.close(&mut ended);
    ended.notify();
    assert!(matches!(
        answers[0].try_recv().unwrap(),
        Err(LogError::Unavailable(_))
    ));
    assert_eq!((queues.records, queues.bytes), (0, 0));
}
