use super::*;

fn requests() -> Vec<Request> {
    vec![
        Request::Spawn(Box::new(Spawn {
            argv: vec!["hvrun".into(), "--kernel".into(), "Größe".into()],
            env: vec![
                ("PATH".into(), "/bin".into()),
                ("EMPTY".into(), String::new()),
            ],
            root: Some("/host".into()),
            cwd: "/home/user".into(),
            user: Some((1000, u32::MAX)),
            terminal: Some(WindowSize {
                rows: 24,
                columns: 80,
            }),
            stdio: [Stdio::Terminal, Stdio::Pipe, Stdio::File("/tmp/log".into())],
            refused_ioctls: vec![(0xc00c_aee0, 22), (u32::MAX, 4095)],
        })),
        Request::Spawn(Box::default()),
        Request::Input(vec![0, 1, 255]),
        Request::Input(Vec::new()),
        Request::EndInput,
        Request::Credit(Stream::Stderr, u32::MAX),
        Request::CloseOutput(Stream::Terminal),
        Request::Signal(-1),
        Request::Resize(WindowSize {
            rows: 0,
            columns: u16::MAX,
        }),
        Request::Release,
        Request::Mount(Mount {
            source: "root".into(),
            target: "/host".into(),
            kind: "9p".into(),
            flags: 1 << 40,
            options: "trans=virtio".into(),
        }),
        Request::PowerOff,
    ]
}

fn events() -> Vec<Event> {
    vec![
        Event::Ready {
            version: VERSION,
            release: "6.12".into(),
        },
        Event::Started(42),
        Event::Done,
        Event::Failed("no such file".into()),
        Event::Output(Stream::Stdout, vec![7; MAX_DATA]),
        Event::EndOutput(Stream::Terminal),
        Event::InputCredit(4096),
        Event::InputClosed,
        Event::Exited(ExitStatus::Code(-1)),
        Event::Exited(ExitStatus::Signal(9)),
    ]
}

#[test]
fn requests_arrive_as_they_were_sent() {
    let mut frames = Frames::new();
    for (id, request) in (7..).zip(requests()) {
        frames.push(&request.encode(id).unwrap());
        assert_eq!(frames.next_request(), Ok(Some((id, request))));
        assert_eq!(frames.next_request(), Ok(None));
    }
}

#[test]
fn events_arrive_as_they_were_sent() {
    let mut frames = Frames::new();
    for (id, event) in (u32::MAX - 20..).zip(events()) {
        frames.push(&event.encode(id).unwrap());
        assert_eq!(frames.next_event(), Ok(Some((id, event))));
        assert_eq!(frames.next_event(), Ok(None));
    }
}

#[test]
fn a_stream_is_cut_into_frames_however_it_arrives() {
    let stream: Vec<u8> = requests()
        .iter()
        .flat_map(|r| r.encode(1).unwrap())
        .collect();
    for piece in [1, 2, 3, 5, 8, 64, stream.len()] {
        let mut frames = Frames::new();
        let mut got = Vec::new();
        for bytes in stream.chunks(piece) {
            frames.push(bytes);
            while let Some((1, request)) = frames.next_request().unwrap() {
                got.push(request);
            }
        }
        assert_eq!(got, requests());
    }
}

#[test]
fn a_frame_cut_short_is_refused() {
    let frames = (requests().into_iter().map(|r| r.encode(1).unwrap()))
        .chain(events().into_iter().take(4).map(|e| e.encode(1).unwrap()));
    for frame in frames {
        for length in 0..frame.len() - 4 {
            let mut short = u32::try_from(length).unwrap().to_le_bytes().to_vec();
            short.extend_from_slice(&frame[4..4 + length]);
            let mut reader = Frames::new();
            reader.push(&short);
            let error = if frame[4] & 0x80 == 0 {
                reader.next_request().unwrap_err()
            } else {
                reader.next_event().unwrap_err()
            };
            assert_eq!(error, Error::Truncated);
        }
    }
}

#[test]
fn bytes_behind_the_last_field_are_refused() {
    let mut frame = Request::Signal(15).encode(1).unwrap();
    frame.extend_from_slice(&[0, 0, 0]);
    let length = u32::try_from(frame.len() - 4).unwrap();
    frame[..4].copy_from_slice(&length.to_le_bytes());
    let mut frames = Frames::new();
    frames.push(&frame);
    assert_eq!(frames.next_request(), Err(Error::TrailingBytes(3)));
}

#[test]
fn a_frame_beyond_the_bound_is_refused_before_its_bytes_arrive() {
    let mut frames = Frames::new();
    frames.push(&u32::MAX.to_le_bytes());
    assert_eq!(frames.next_request(), Err(Error::TooLong(0xffff_ffff)));
    assert_eq!(
        Request::Input(vec![0; MAX_FRAME]).encode(1),
        Err(Error::TooLong(MAX_FRAME + 9))
    );
}

#[test]
fn a_false_count_allocates_nothing() {
    // A Spawn frame whose argument list claims 2^32 - 1 items.
    let mut frames = Frames::new();
    frames.push(&[9, 0, 0, 0, 0x01, 1, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(frames.next_request(), Err(Error::Truncated));
}

#[test]
fn impossible_values_are_refused() {
    let mut frames = Frames::new();
    frames.push(&[10, 0, 0, 0, 0x04, 1, 0, 0, 0, 9, 0, 0, 0, 0]);
    assert_eq!(frames.next_request(), Err(Error::BadValue("stream")));

    let mut frames = Frames::new();
    frames.push(&[5, 0, 0, 0, 0x7f, 1, 0, 0, 0]);
    assert_eq!(frames.next_request(), Err(Error::UnknownKind(0x7f)));

    let mut frames = Frames::new();
    frames.push(&[11, 0, 0, 0, 0x84, 1, 0, 0, 0, 2, 0, 0, 0, 0xc3, 0x28]);
    assert_eq!(frames.next_event(), Err(Error::BadValue("reason")));
}
