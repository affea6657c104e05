"""Splitting a recorded computation into what is known before an argument and what comes after."""

from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

# Cheaper made again than handed over.
_VIEWS = ("aten.t.", "aten.view.", "aten.expand.", "aten.select.", "aten.unsqueeze.")


def split_stages(graph: GraphModule, known: int) -> tuple[GraphModule, GraphModule]:
    """Split at what depends on the inputs behind the first ``known`` ones.

    Args:
        graph: straight-line, without side effects, whose output is a list.
        known: number of its inputs that the first stage gets.

    Returns:
        ``before(*inputs[:known]) -> values`` and ``after(*values, *inputs[known:])``, the latter
        with the outputs of the whole.
    """
    nodes = list(graph.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    late = set(inputs[known:])
    for node in nodes:
        if node.op == "output" or any(source in late for source in node.all_input_nodes):
            late.add(node)
    again, values = set[Node](), dict[Node, None]()
    for node in reversed(nodes):
        if node in late or node in again:
            for source in node.all_input_nodes:
                if source.op == "get_attr" or str(source.target).startswith(_VIEWS):
                    again.add(source)
                elif source not in late:
                    values[source] = None

    before, copies = Graph(), dict[Node, Node]()
    for node in nodes:
        if node not in late:
            copies[node] = before.node_copy(node, copies.__getitem__)
    before.output([copies[value] for value in values])
    before.eliminate_dead_code()

    after = Graph()
    copies = {value: after.placeholder(value.name) for value in values}
    for value, copy in copies.items():
        copy.meta = dict(value.meta)
    for node in (*inputs[known:], *nodes):
        if node.op == "output":
            after.output(map_arg(node.args[0], copies.__getitem__))
        elif node not in copies and (node in late or node in again):
            copies[node] = after.node_copy(node, copies.__getitem__)
    return GraphModule(graph, before), GraphModule(graph, after)
