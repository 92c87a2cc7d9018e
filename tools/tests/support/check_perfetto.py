"""Reads a trace with the official protos and prints what is in it; fails where it breaks a rule.

Usage: check_perfetto.py FILE. Prints one "name value" a line for trace_perfetto.rs to compare.
Rules: every event is on a described track, time never runs back on a track, slices nest and all
end, every arrow has exactly one end that comes last and at least one start before it.
"""

import collections
import sys

from perfetto.protos.perfetto.trace import perfetto_trace_pb2 as protos

BEGIN, END, INSTANT, COUNTER = 1, 2, 3, 4


def main(path):
    trace = protos.Trace()
    with open(path, "rb") as file:
        trace.ParseFromString(file.read())

    tracks, names, categories = {}, {}, {}
    open_slices = collections.defaultdict(list)
    last_time = {}
    counts = collections.Counter()
    deepest = collections.Counter()
    starts, ends = collections.defaultdict(list), collections.defaultdict(list)

    first = True
    for packet in trace.packet:
        if packet.HasField("track_descriptor"):
            track = packet.track_descriptor
            assert track.uuid not in tracks, "track described twice"
            tracks[track.uuid] = track
            assert not track.parent_uuid or track.parent_uuid in tracks, "orphan track"
            continue
        assert packet.HasField("track_event"), packet
        assert packet.trusted_packet_sequence_id == 1
        assert bool(packet.sequence_flags & 1) == first, "incremental state"
        first = False
        for entry in packet.interned_data.event_names:
            assert entry.iid not in names
            names[entry.iid] = entry.name
        for entry in packet.interned_data.event_categories:
            categories[entry.iid] = entry.name
        event = packet.track_event
        assert event.track_uuid in tracks, "event on an unknown track"
        assert packet.timestamp >= last_time.get(event.track_uuid, 0), "time runs back"
        last_time[event.track_uuid] = packet.timestamp
        stack = open_slices[event.track_uuid]
        if event.type in (BEGIN, INSTANT):
            assert event.name_iid in names, "nameless event"
            category = categories[event.category_iids[0]]
            counts[category] += 1
        if event.type == BEGIN:
            stack.append((packet.timestamp, category))
            deepest[event.track_uuid] = max(deepest[event.track_uuid], len(stack))
        elif event.type == END:
            assert stack, "end without begin"
            begin, _ = stack.pop()
            assert begin <= packet.timestamp
        elif event.type == COUNTER:
            assert tracks[event.track_uuid].HasField("counter")
            counts["counter"] += 1
        for flow in event.flow_ids:
            starts[flow].append(packet.timestamp)
        for flow in event.terminating_flow_ids:
            ends[flow].append(packet.timestamp)

    assert not any(open_slices.values()), "slices left open"
    assert starts.keys() == ends.keys(), "arrows with one end: %d" % len(
        starts.keys() ^ ends.keys()
    )
    for flow, times in ends.items():
        assert len(times) == 1, "arrow with two ends"
        assert max(starts[flow]) <= times[0], "arrow against time"
        counts["flow%d" % (flow >> 56)] += 1

    cpus = [t for t in tracks.values() if t.name.startswith("cpu") and " " not in t.name]
    assert all(deepest[track.uuid] <= 1 for track in cpus), "polls overlap"
    processes = [t for t in tracks.values() if t.HasField("process")]
    print("processes", len(processes))
    print("process_name", processes[0].process.process_name.replace(" ", "_"))
    print("cpu_tracks", len(cpus))
    print("interrupt_tracks", sum(t.name.endswith(" interrupts") for t in tracks.values()))
    print("counter_tracks", sum(t.HasField("counter") for t in tracks.values()))
    for name, count in sorted(counts.items()):
        print(name, count)


main(sys.argv[1])
