%% What OTP does where creche has an actor or a supervisor: gen_server and supervisor, as one writes them.
%%
%% Driven a measurement at a time: a line with a name and numbers comes in, a line with the results goes out, in
%% microseconds or bytes. So one warm VM is measured in turns with the other programs.
%%
%% Everything is timed by the wall clock, for there is no other that is fine enough; of several tries the fastest counts.
%%
%% One module is the callback of both behaviours; what `init` is given tells them apart.
-module(rival).
-behaviour(gen_server).
-export([main/0, init/1, handle_call/3, handle_cast/2, start_server/1, start_family/1]).

-define(TRIES, 5).
-define(BURST, 256).
-define(FAMILY, 1000).  % children per supervisor
-define(LIVES, 50).  % crashes per supervisor: it walks the list of its restarts of the last second at each one

main() ->
    logger:set_primary_config(level, none),  % nobody listens, as on the other side
    process_flag(trap_exit, true),
    serve().

serve() ->
    case io:get_line("") of
        eof ->
            halt();
        Line ->
            [Name | Numbers] = string:lexemes(string:trim(Line), " "),
            Results = measure(Name, [list_to_integer(Number) || Number <- Numbers]),
            io:put_chars([lists:join(" ", [io_lib:format("~.4f", [float(Result)]) || Result <- Results]), $\n]),
            serve()
    end.

measure("ask", [Callers, Each]) -> ask(Callers, Each);
measure("cast", [Bursts]) -> cast(Bursts);
measure("restart", [Crashes]) -> restart(Crashes);
measure("start", [Count]) -> start(Count);
measure("crowd", [Count]) -> crowd(Count);
measure("group", [Count]) -> group(Count);
measure("memory", [Count]) -> memory(Count).

%% --- messages -------------------------------------------------------------------------------------------------

%% So many processes ask so many times each; microseconds per ask.
ask(Callers, Each) ->
    {ok, Server} = gen_server:start(?MODULE, quiet, []),
    Elapsed = fastest(fun() ->
        Started = [spawn_monitor(fun() -> ask_in_turn(Server, Each) end) || _ <- lists:seq(1, Callers)],
        [receive {'DOWN', Ref, process, Pid, normal} -> ok end || {Pid, Ref} <- Started]
    end),
    gen_server:stop(Server),
    [Elapsed / (Callers * Each)].

ask_in_turn(_Server, 0) -> ok;
ask_in_turn(Server, Left) ->
    Left = gen_server:call(Server, {echo, Left}),
    ask_in_turn(Server, Left - 1).

%% Bursts of casts, each ended by a call; microseconds per cast.
cast(Bursts) ->
    {ok, Server} = gen_server:start(?MODULE, quiet, []),
    Elapsed = fastest(fun() -> [burst(Server) || _ <- lists:seq(1, Bursts)] end),
    gen_server:stop(Server),
    [Elapsed / (Bursts * ?BURST)].

burst(Server) ->
    [gen_server:cast(Server, {echo, Number}) || Number <- lists:seq(1, ?BURST)],
    gen_server:call(Server, {echo, 0}).

%% --- crashes --------------------------------------------------------------------------------------------------

%% A crash and the next answer, as the caller sees them; the median in microseconds. First with a successor that tells
%% the caller that it is there, then with a caller that looks for it under its name.
restart(Crashes) ->
    Rounds = max(1, Crashes div ?LIVES),
    [median(lists:append([lives(Wait) || _ <- lists:seq(1, Rounds)])) || Wait <- [told, polling]].

lives(Wait) ->
    Server = #{id => phoenix, start => {?MODULE, start_server, [{phoenix, self()}]}},
    Flags = #{strategy => one_for_one, intensity => 1000000, period => 1},
    {ok, Supervisor} = supervisor:start_link(?MODULE, {supervisor, Flags, [Server]}),
    Samples = [crash_and_ask(Wait) || _ <- lists:seq(1, ?LIVES)],
    stop(Supervisor),
    Samples.

crash_and_ask(Wait) ->
    Old = whereis(phoenix),
    flush(),
    timed(fun() ->
        gen_server:cast(Old, die),
        {echo, 1} = {echo, gen_server:call(successor(Wait, Old), {echo, 1})}
    end).

successor(told, _Old) ->
    receive {up, New} -> New end;
successor(polling, Old) ->
    case whereis(phoenix) of
        New when is_pid(New), New =/= Old -> New;
        _ -> erlang:yield(), successor(polling, Old)
    end.

flush() ->
    receive {up, _} -> flush() after 0 -> ok end.

%% The first of so many children crashes, all are restarted; microseconds per child.
group(Count) -> best([restart_group(Count) || _ <- lists:seq(1, ?TRIES)]).

restart_group(Count) ->
    Born = counters:new(1, []),
    Child = fun(Id) -> #{id => Id, start => {?MODULE, start_server, [{member, Born, Count, self()}]}} end,
    Flags = #{strategy => one_for_all, intensity => 1000000, period => 1},
    {ok, Supervisor} = supervisor:start_link(?MODULE, {supervisor, Flags, [Child(Id) || Id <- lists:seq(1, Count)]}),
    receive complete -> ok end,
    First = hd([Pid || {1, Pid, _, _} <- supervisor:which_children(Supervisor)]),
    counters:put(Born, 1, 0),
    Elapsed = timed(fun() -> gen_server:cast(First, die), receive complete -> ok end end),
    stop(Supervisor),
    [Elapsed / Count].

%% --- a crowd of servers ---------------------------------------------------------------------------------------

%% supervisor:start_child for one after the other, and the stop of them all; microseconds per child.
start(Count) -> best([start_each(Count) || _ <- lists:seq(1, ?TRIES)]).

start_each(Count) ->
    Flags = #{strategy => one_for_one},
    {ok, Supervisor} = supervisor:start_link(?MODULE, {supervisor, Flags, []}),
    Starting = timed(fun() -> [{ok, _} = supervisor:start_child(Supervisor, quiet(Id)) || Id <- lists:seq(1, Count)] end),
    Stopping = timed(fun() -> stop(Supervisor) end),
    [Starting / Count, Stopping / Count].

%% Static children under supervisors of at most ?FAMILY, and the stop of them all; microseconds per child.
crowd(Count) -> best([start_families(Count) || _ <- lists:seq(1, ?TRIES)]).

start_families(Count) ->
    {Root, Starting} = families(Count),
    Stopping = timed(fun() -> stop(Root) end),
    [Starting / Count, Stopping / Count].

%% Bytes per server that was never asked.
memory(Count) ->
    garbage_collect(),
    Before = erlang:memory(total),
    {Root, _} = families(Count),
    garbage_collect(),
    Bytes = erlang:memory(total) - Before,
    stop(Root),
    [Bytes / Count].

families(Count) ->
    {ok, Root} = supervisor:start_link(?MODULE, {supervisor, #{}, []}),
    Sizes = lists:duplicate(Count div ?FAMILY, ?FAMILY) ++ [Count rem ?FAMILY || Count rem ?FAMILY > 0],
    Numbered = lists:zip(lists:seq(1, length(Sizes)), Sizes),
    {Root, timed(fun() -> [{ok, _} = supervisor:start_child(Root, family(Id, Size)) || {Id, Size} <- Numbered] end)}.

family(Id, Size) ->
    #{id => Id, type => supervisor, start => {?MODULE, start_family, [[quiet(Number) || Number <- lists:seq(1, Size)]]}}.

start_family(Children) -> supervisor:start_link(?MODULE, {supervisor, #{}, Children}).

quiet(Id) -> #{id => Id, start => {?MODULE, start_server, [quiet]}}.

start_server(Args) -> gen_server:start_link(?MODULE, Args, []).

stop(Supervisor) ->
    exit(Supervisor, shutdown),
    receive {'EXIT', Supervisor, shutdown} -> ok end.

%% --- callbacks ------------------------------------------------------------------------------------------------

init({supervisor, Flags, Children}) ->
    {ok, {Flags, Children}};
init({phoenix, Caller} = State) ->
    register(phoenix, self()),
    Caller ! {up, self()},
    {ok, State};
init({member, Born, Count, Caller} = State) ->
    counters:add(Born, 1, 1),
    case counters:get(Born, 1) of
        Count -> Caller ! complete;
        _ -> ok
    end,
    {ok, State};
init(quiet) ->
    {ok, quiet}.

handle_call({echo, Value}, _From, State) -> {reply, Value, State}.

handle_cast({echo, _Value}, State) -> {noreply, State};
handle_cast(die, _State) -> error(boom).

%% --- figures --------------------------------------------------------------------------------------------------

timed(Fun) ->
    Began = erlang:monotonic_time(),
    Fun(),
    erlang:convert_time_unit(erlang:monotonic_time() - Began, native, nanosecond) / 1000.

fastest(Fun) -> lists:min([timed(Fun) || _ <- lists:seq(1, ?TRIES)]).

%% Of several figures each.
best([[_] | _] = Tries) -> [lists:min(lists:append(Tries))];
best([[_, _] | _] = Tries) -> [lists:min([First || [First, _] <- Tries]), lists:min([Second || [_, Second] <- Tries])].

median(Samples) -> lists:nth(length(Samples) div 2 + 1, lists:sort(Samples)).
